"""Settings of the monitor, from the environment (PARCELWATCH_MONITOR_...)."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from monitor.alerts.settings import RuleSettings


class MonitorSettings(BaseSettings):
    """How the monitor works; built at the command line and passed down."""

    model_config = SettingsConfigDict(
        env_prefix="PARCELWATCH_MONITOR_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    batch: Annotated[int, Field(ge=1)] = 2048
    """Parcels claimed at once: about a second of work, so locks are short and a kill costs little."""
    interval_s: Annotated[float, Field(gt=0)] = 5.0
    """Pause between polls for pending observations."""
    retry_s: Annotated[float, Field(gt=0)] = 60.0
    """Pause before work that failed is tried again; doubled with each try."""
    give_up_after: Annotated[int, Field(ge=1)] = 5
    """Parcels that fail one after the other, with none that does not, before the rest waits: then the model or the server is broken."""
    lead_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between the leader's updates of crop progress."""
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of the networks on a CPU: batches are small, and threads that wait for each other cost more than they bring
    (training on two busy cores: 16 s of processor time with one, over 180 s with two). Start more monitors instead."""
    device: str = "cpu"
    """Where the networks run: cpu, cuda, cuda:1 ..."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the classifier's products over pixels; bfloat16 is for GPUs, states and attention stay float32."""
    escalate_after_days: Annotated[int, Field(ge=1)] | None = None
    """Days after which an alert is escalated that nobody moved on, once each time; none: never, because an agency has to say how long is
    too long. A deadline that passed is escalated always."""
    rules: RuleSettings = RuleSettings()
