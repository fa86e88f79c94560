"""The stages of a long run: told to a person while they last, timed for the report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """Tells a person what is being done and keeps how long each stage took."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator["Bar"]:
        """One stage with its bar."""
        columns = (
            TextColumn("[bold]{task.fields[stage]:<20}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        begun = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"{name} ...")
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=total, stage=name)
            yield Bar(progress, task)
            progress.update(task, total=1, completed=1)
        self.seconds[name] = time.monotonic() - begun


@dataclass(frozen=True)
class Bar:
    """The bar of a stage."""

    progress: Progress
    task: TaskID

    def to(self, done: float, total: float, what: str) -> None:
        """Moves the bar and says where things stand."""
        self.progress.update(self.task, completed=done, total=total, description=what)
