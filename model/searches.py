"""What is searched of a model: configurations must hold; variants and probes must fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.spin import Defines


@dataclass(frozen=True, slots=True)
class Variant:
    """A model without some rules that together stop a scenario."""

    #: Numbers of the rules in the model.
    rules: tuple[int, ...]
    #: Name of the configuration in which it fails.
    configuration: str
    #: Numbers of the scenarios that the rules stop.
    scenarios: str
    #: What is missing.
    rule: str

    @property
    def name(self) -> str:
        """The rules' numbers, as one types them."""
        return "+".join(str(rule) for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Probe:
    """An event that must be reachable."""

    number: int
    event: str
    #: Name of the configuration in which it happens.
    configuration: str


@dataclass(frozen=True, slots=True)
class Model:
    """A file of Promela, and all that is searched of it."""

    name: str
    configurations: Mapping[str, Defines]
    variants: tuple[Variant, ...]
    probes: tuple[Probe, ...]
    #: All configurations together have more; fewer mean that something no longer happens.
    states_min: int

    @property
    def file(self) -> Path:
        """The model's text."""
        return Path(__file__).with_name(f"{self.name}.pml")

    def weakened(self, variant: Variant) -> Defines:
        """The variant's configuration without its rules."""
        names = ("WEAK", "WEAK2", "WEAK3")
        weak = dict(zip(names, variant.rules, strict=False))
        return {**self.configurations[variant.configuration], **weak}

    def probing(self, probe: Probe) -> Defines:
        """The probe's configuration, which fails when the event happens."""
        return {**self.configurations[probe.configuration], "PROBE": probe.number}
