"""Settings of the monitor, from the environment (PARCELWATCH_MONITOR_...)."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from monitor.rules import RuleSettings


class MonitorSettings(BaseSettings):
    """How the monitor works; built at the command line and passed down."""

    model_config = SettingsConfigDict(
        env_prefix="PARCELWATCH_MONITOR_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    batch: int = Field(512, ge=1)
    """Parcels claimed at once: about 0.1 s of work, so locks are short and a kill costs little."""
    interval_s: float = Field(5.0, gt=0)
    """Pause between looks for news."""
    retry_s: float = Field(60.0, gt=0)
    """Pause before work that failed is tried again; doubled with each try."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1 ..."""
    rules: RuleSettings = RuleSettings()
