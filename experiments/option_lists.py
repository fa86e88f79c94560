"""Options that hold several values, separated by commas."""

from experiments.schemes import ExperimentError


def words(text: str) -> tuple[str, ...]:
    """The words of an option, empty ones left out."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """The whole numbers of an option; ExperimentError names the option."""
    try:
        return tuple(int(word) for word in words(text))
    except ValueError as error:
        raise ExperimentError(f"{option} {text}: whole numbers by commas, such as 0,1,2") from error
