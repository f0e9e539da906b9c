"""Parts of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A part of a picture, in shares of its width and height, from the left and from above."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    def shared(self, other: Box) -> float:
        """The area that both cover."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        ).area

    def overlap(self, other: Box) -> float:
        """What both cover, over what either covers."""
        both = self.shared(other)
        return both / max(self.area + other.area - both, 1e-9)

    def clipped(self) -> Box:
        """What of it lies in the picture."""
        places = (self.left, self.top, self.right, self.bottom)
        return Box(*(min(1.0, max(0.0, place)) for place in places))

    def within(self, whole: Box) -> Box:
        """This box in shares of `whole`; it may reach beyond."""
        return Box(
            (self.left - whole.left) / whole.width,
            (self.top - whole.top) / whole.height,
            (self.right - whole.left) / whole.width,
            (self.bottom - whole.top) / whole.height,
        )


WHOLE = Box()
