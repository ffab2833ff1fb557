"""The errors of cutting tiles.

HistotileError (manifests.errors)
└── TilerError
    ├── SlideError          one slide cannot be used; the others go on
    │   ├── UnreadableSlide     no reader opens it, or its structure does not hold
    │   ├── UnknownResolution   no trustworthy µm per pixel
    │   ├── NoNativeTiles       the file's own tiles were asked for and cannot be had
    │   └── PixelReadError      a native tile could not be decoded
    ├── SpecMismatch        an output folder holds stores made with other settings
    └── OutputBusy          another run is writing to the same output folder
"""

from __future__ import annotations

from manifests.errors import EXIT_TRY_LATER, HistotileError


class TilerError(HistotileError):
    """Root of the errors of cutting tiles."""


class SlideError(TilerError):
    """One slide cannot be used. The run records the reason and goes on with the others."""


class UnreadableSlide(SlideError):
    """No reader opens the file, or what it says about itself does not hold."""


class UnknownResolution(SlideError):
    """The slide has no trustworthy µm per pixel, or a coarser one than asked for."""


class NoNativeTiles(SlideError):
    """The file's own tiles were asked for, and cannot be taken as they are."""


class PixelReadError(SlideError):
    """A native tile could not be read or decoded."""


class SpecMismatch(TilerError):
    """The output folder holds stores made with other settings."""


class OutputBusy(TilerError):
    """Another run is writing to the same output folder."""

    exit_code = EXIT_TRY_LATER
