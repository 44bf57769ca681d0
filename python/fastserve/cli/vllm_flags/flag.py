"""One flag of `vllm serve`, and what `fastserve serve` makes of it."""

from dataclasses import dataclass
from typing import Literal

Shape = Literal["switch", "value", "values", "optional"]
Class = Literal["same", "renamed", "no effect", "refused"]

ANY = "any value"
ON, OFF = "on", "off"


@dataclass(frozen=True, slots=True)
class VllmFlag:
    """A flag of `vllm serve`.

    Attributes:
        name: without dashes.
        shorts: other spellings, with their dashes.
        ours: the flag of FastServe that has its meaning; empty = there is none.
        as_here: values that describe what FastServe does anyway: accepted, without effect. A switch has "on" and "off".
        note: of a flag that is ours, what differs; of any other, why it is refused and what to use instead.
        shape: what follows the flag on a command line.
    """

    name: str
    shorts: tuple[str, ...] = ()
    ours: str = ""
    as_here: tuple[str, ...] = ()
    note: str = ""
    shape: Shape = "value"

    @property
    def kind(self) -> Class:
        """What becomes of it."""
        if self.ours:
            return "same" if self.ours == self.name else "renamed"
        return "no effect" if self.as_here else "refused"

    @property
    def spellings(self) -> tuple[str, ...]:
        """As they stand on a command line."""
        return (f"--{self.name}", *self.shorts)

    def is_as_here(self, value: str) -> bool:
        """Whether a value describes what FastServe does anyway."""
        plain = "".join(value.split()).lower()
        return ANY in self.as_here or plain in self.as_here


def same(names: str, note: str = "", *, ours: str = "") -> VllmFlag:
    """A flag that is ours as well, maybe under another name."""
    name, *shorts = names.split()
    return VllmFlag(name, tuple(shorts), ours=ours or name, note=note)


def refused(names: str, note: str, *, shape: Shape = "value") -> VllmFlag:
    """A flag that has no place here, whatever its value."""
    name, *shorts = names.split()
    return VllmFlag(name, tuple(shorts), note=note, shape=shape)


def only(names: str, as_here: str | tuple[str, ...], note: str, *, shape: Shape = "value") -> VllmFlag:
    """A flag whose value must be one of those that describe what is done anyway."""
    name, *shorts = names.split()
    return VllmFlag(
        name, tuple(shorts), as_here=(as_here,) if isinstance(as_here, str) else as_here, note=note, shape=shape
    )


def only_off(names: str, note: str) -> VllmFlag:
    """A switch for what is not done here."""
    return only(names, OFF, note, shape="switch")


def only_on(names: str, note: str) -> VllmFlag:
    """A switch for what is always done here."""
    return only(names, ON, note, shape="switch")
