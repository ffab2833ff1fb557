"""What a picture looks like, in few numbers: perceptual fingerprints of tiles and of whole slides.

A picture becomes a small square of optical densities (of its luminance), band-passed, sampled on
rings around its centre whose radii grow by a constant factor, and Fourier transformed along each
ring (the Fourier-Mellin idea: Casasent and Psaltis, Appl. Opt. 15, 1976). Turning the picture then
shifts phases, mirroring it conjugates them, enlarging it moves rings outwards. Radii are pixels of
the small square, angles are counted from x towards y.

Two numbers come from it: `describe`, a vector that turning and mirroring leave as it is, to find
candidates by distance, and `compare`, the correlation of two pictures at the best angle.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg

from manifests.codec import Rgb, TileCodec
from manifests.errors import StoreError

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]

_BANDS, _ORDERS = 4, 6
DIMENSIONS = _BANDS + _BANDS * (_BANDS + 1) // 2 * _ORDERS
"""Length of what `describe` returns."""
_CODE_SCALE = 300.0
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_TISSUE_SPREADS = 1.5
"""Half the side of a slide's square, in root mean square distances of tissue from its centre."""
_LEAST_TISSUE_PX = 48
_COVER_PX = 2.5


@dataclass(frozen=True, slots=True)
class Eye:
    """How closely pictures are looked at."""

    side: int
    """Pixels of the small square."""
    angles: int
    """Samples along a ring."""
    factor: float
    """Ratio of the radii of neighbouring rings."""
    inner_px: float
    """Radius of the innermost ring, about."""
    fine_px: float
    """What is finer than this (standard deviation of a Gaussian) is blurred away."""
    coarse_px: float
    """What is coarser than this is taken away."""
    zooms: tuple[int, ...] = (0,)
    """Rings by which one picture may be an enlarged middle of another, for `describe`."""

    @property
    def rings(self) -> int:
        """Number of rings."""
        return int(np.log(self._outer_px / self.inner_px) / np.log(self.factor)) + 1

    @property
    def radii(self) -> npt.NDArray[np.float64]:
        """Radii of the rings in pixels, from the innermost to the outermost."""
        return self._outer_px * self.factor ** -np.arange(self.rings, dtype=np.float64)[::-1]

    @property
    def orders(self) -> int:
        """Fourier orders that are kept, 0 included."""
        return self.angles // 3

    @property
    def _outer_px(self) -> float:
        return (self.side - 1) / 2


GLANCE = Eye(28, 48, factor=1.09, inner_px=1.8, fine_px=0.6, coarse_px=3, zooms=(0, 2, 4, 6))
"""For all pictures: pixels of about 8 in a tile of 224 px."""
LOOK = Eye(64, 96, factor=1.04, inner_px=5, fine_px=0.8, coarse_px=2)
"""For candidates: nuclei are seen."""


def optical_density(luminance: npt.NDArray[np.generic]) -> Floats:
    """Natural-log optical density of luminance 0 to 255; the offset keeps black finite."""
    density: Floats = -np.log((luminance.astype(np.float32) + 8) / 263)
    return density


def read_small(data: bytes, codec: TileCodec, size: int, least: int) -> Rgb:
    """Decode a tile, as small as is quick but at least `least` pixels a side if it has so many.

    Raises:
        StoreError: the bytes are damaged or hold a picture of another size.
    """
    if codec.name != "jpeg":
        return codec.decode(data, size, size)
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != (size, size):
            raise StoreError(f"a JPEG tile is {width} x {height} px, not {size} x {size}")
        least = min(least, size)
        small = simplejpeg.decode_jpeg(data, min_height=least, min_width=least, fastdct=True)
    except ValueError as error:
        raise StoreError(f"a JPEG tile cannot be decoded ({error})") from error
    return cast(Rgb, small)


def colour(pixels: Rgb) -> Floats:
    """Mean optical density of red and of blue less that of green, over axes -3 and -2: (..., 2).

    It says which stains there are, whatever the brightness.
    """
    mean: Floats = optical_density(pixels).mean(axis=(-3, -2))
    return np.stack([mean[..., 0] - mean[..., 1], mean[..., 2] - mean[..., 1]], axis=-1)


def tile_squares(pixels: Rgb, eye: Eye) -> Floats:
    """Optical densities (n, side, side) of the luminance of square pictures (n, s, s, 3)."""
    matrix = shrink(pixels.shape[1], eye.side)
    squares = matrix @ optical_density(pixels @ _LUMINANCE) @ matrix.T
    return squares.astype(np.float32)


def shrink(size: int, side: int, start: float = 0.0, stop: float | None = None) -> Floats:
    """A matrix (side, size) that averages pixels `start` to `stop` of a line over `side` cells.

    Cells are weighted by overlap. What lies outside of the line counts as 0.
    """
    stop = float(size) if stop is None else stop
    edges = np.linspace(start, stop, side + 1)
    pixels = np.arange(size)
    left = np.maximum(edges[:-1, None], pixels[None])
    right = np.minimum(edges[1:, None], pixels[None] + 1)
    overlap = (right - left).clip(0) * (side / (stop - start))
    return overlap.astype(np.float32)


def slide_square(thumbnail: Rgb, tissue: npt.NDArray[np.bool_], eye: Eye) -> Floats | None:
    """Optical densities (side, side) of a slide's tissue; None where there is too little to see.

    The square is centred on the tissue and grows with its spread, so that neither the size of the
    picture nor the glass around the tissue matters. Glass has density 0.
    """
    y, x = np.nonzero(tissue)
    half = _TISSUE_SPREADS * float(np.sqrt(x.var() + y.var())) if len(x) else 0.0
    if 2 * half < _LEAST_TISSUE_PX:
        return None
    density = optical_density(thumbnail @ _LUMINANCE)
    glass = density[~tissue]
    density = (density - (np.median(glass) if len(glass) else 0)).clip(0).astype(np.float32)
    middle_x, middle_y = float(x.mean()) + 0.5, float(y.mean()) + 0.5
    down = shrink(len(density), eye.side, middle_y - half, middle_y + half)
    across = shrink(density.shape[1], eye.side, middle_x - half, middle_x + half)
    square = down @ density @ across.T
    return square.astype(np.float32)


def code_length(eye: Eye) -> int:
    """Numbers that `encode` makes of a picture."""
    return 2 * int(_kept(eye).sum())


def encode(squares: Floats, eye: Eye) -> tuple[Codes, Floats]:
    """Ring spectra of optical densities, shape (n, side, side).

    Returns:
        int8 codes (n, c), for `spectra`; and the contrast of each picture, (n,): the root mean
        square of its band-passed optical density.
    """
    flat = squares.reshape(len(squares), -1) @ _operator(eye)
    energy = np.sqrt((flat**2 * _multiplicity(eye)).sum(axis=1, keepdims=True))
    codes = np.rint(flat * (_CODE_SCALE / np.maximum(energy, 1e-6)))
    return np.clip(codes, -127, 127).astype(np.int8), energy[:, 0]


def spectra(codes: Codes, eye: Eye) -> npt.NDArray[np.complex64]:
    """The spectra that `encode` packed: complex (n, rings, orders), weighted by √(ring's area)."""
    kept = _kept(eye)
    found = np.zeros((len(codes), eye.rings, eye.orders), dtype=np.complex64)
    half = int(kept.sum())
    found[:, kept] = codes[:, :half] + 1j * codes[:, half:].astype(np.float32)
    return found


def see(squares: Floats, eye: Eye) -> tuple[npt.NDArray[np.complex64], Floats]:
    """Spectra as `spectra` has them, without the detour over codes, and coverage, (n,).

    Coverage tells how evenly the detail is spread: 1 where it is the same all over, near 0 where
    the picture is but one edge. The more of it there is, the less likely others look so by chance.
    """
    from scipy import ndimage

    fine, coarse, wide = (_blur(eye.side, px) for px in (eye.fine_px, eye.coarse_px, _COVER_PX))
    passed = fine @ squares @ fine.T - coarse @ squares @ coarse.T
    energy = wide @ passed**2 @ wide.T
    coverage = energy.mean(axis=(1, 2)) ** 2 / np.maximum((energy**2).mean(axis=(1, 2)), 1e-12)
    turn = 2 * np.pi * np.arange(eye.angles) / eye.angles
    middle = (eye.side - 1) / 2
    places = np.stack([eye.radii[:, None] * np.sin(turn), eye.radii[:, None] * np.cos(turn)])
    polar = np.stack([ndimage.map_coordinates(p, places + middle, order=1) for p in passed])
    spectrum = np.fft.rfft(polar, axis=2)[:, :, : eye.orders] * _kept(eye)
    spectrum *= eye.radii[:, None] / np.sqrt((eye.radii**2).sum())
    return spectrum.astype(np.complex64), coverage.astype(np.float32)


def describe(spectrum: npt.NDArray[np.complex64], zoom: int, eye: Eye) -> Floats:
    """A vector that turning and mirroring the picture does not change, float32 (n, DIMENSIONS).

    Rings are pooled to a few bands. What stays is the band's mean, and for each order the real
    part of the products of two bands: their common phase drops out. Of equal pictures, one of which
    is the enlarged middle of the other by the eye's factor ** zoom, the whole one must be described
    with that zoom and the enlarged one with 0.
    """
    width = eye.rings - max(eye.zooms)
    start = eye.rings - width - zoom
    edges = np.linspace(start, start + width, _BANDS + 1).round().astype(int)
    bands = np.stack(
        [
            spectrum[:, a:b, : _ORDERS + 1].sum(axis=1) / np.float32(np.sqrt(b - a))
            for a, b in itertools.pairwise(edges)
        ],
        axis=1,
    )
    power = np.abs(bands) ** 2
    energy = power[:, :, 0].sum(axis=1) + 2 * power[:, :, 1:].sum(axis=(1, 2))
    bands /= np.sqrt(np.maximum(energy, 1e-6))[:, None, None]
    one, other = np.triu_indices(_BANDS)
    turning = bands[:, :, 1:]
    products = (turning[:, one] * turning[:, other].conj()).real.reshape(len(bands), -1)
    rooted = np.copysign(np.sqrt(np.abs(products)), products)
    return np.concatenate([bands[:, :, 0].real, rooted], axis=1, dtype=np.float32)


def compare(
    whole: npt.NDArray[np.complex64],
    enlarged: npt.NDArray[np.complex64],
    zoom: int,
    eye: Eye,
) -> Floats:
    """Correlation of pairs of pictures at the best angle, mirrored or not: (n,), -1 to 1.

    Args:
        zoom: by how many rings the second of each pair is enlarged; may be negative.
    """
    rings = eye.rings
    one = whole[:, max(-zoom, 0) : rings - max(zoom, 0)]
    two = enlarged[:, max(zoom, 0) : rings - max(-zoom, 0)]
    norm = np.sqrt(_energy(one) * _energy(two))
    best = np.full(len(one), -1, dtype=np.float32)
    for mirrored in (two, two.conj()):
        products = np.einsum("nrm,nrm->nm", one, mirrored)
        at_angles = np.fft.irfft(products, eye.angles, axis=1).max(axis=1) * eye.angles
        np.maximum(best, at_angles / np.maximum(norm, 1e-6), out=best, casting="same_kind")
    return best


def _energy(spectrum: npt.NDArray[np.complex64]) -> Floats:
    power = np.abs(spectrum) ** 2
    total: Floats = power[:, :, 0].sum(axis=1) + 2 * power[:, :, 1:].sum(axis=(1, 2))
    return total


@functools.cache
def _kept(eye: Eye) -> npt.NDArray[np.bool_]:
    """Which (ring, order) are kept: a ring of radius r px carries no order above about 1.5 r."""
    found: npt.NDArray[np.bool_] = np.arange(eye.orders)[None] <= 1.5 * eye.radii[:, None]
    return found


@functools.cache
def _multiplicity(eye: Eye) -> Floats:
    """How often each code counts in the energy: orders above 0 stand for their negatives, too."""
    each = np.where(np.arange(eye.orders) == 0, 1, 2) * np.ones((eye.rings, 1))
    return np.tile(each[_kept(eye)], 2).astype(np.float32)


@functools.cache
def _operator(eye: Eye) -> Floats:
    """The linear map (side², codes) from a square to its packed, weighted ring spectra."""
    side, angles = eye.side, eye.angles
    turn = 2 * np.pi * np.arange(angles) / angles
    radii = eye.radii.reshape(-1, 1)
    across = _interpolate((side - 1) / 2 + radii * np.cos(turn), side)
    down = _interpolate((side - 1) / 2 + radii * np.sin(turn), side)
    polar = np.zeros((eye.rings, angles, side * side))
    for sigma, sign in ((eye.fine_px, 1), (eye.coarse_px, -1)):
        blur = _blur(side, sigma)
        pairs = np.einsum("rty,rtx->rtyx", down @ blur, across @ blur)
        polar += sign * pairs.reshape(polar.shape)
    area = radii / np.sqrt((radii**2).sum())
    spectrum = np.fft.rfft(polar, axis=1)[:, : eye.orders] * (area / angles)[:, :, None]
    packed = spectrum[_kept(eye)].T
    return np.concatenate([packed.real, packed.imag], axis=1).astype(np.float32)


@functools.cache
def _blur(side: int, sigma_px: float) -> Floats:
    """A matrix (side, side) that blurs a line by a Gaussian; what is beyond its ends mirrors it."""
    from scipy import ndimage

    blurred: Floats = ndimage.gaussian_filter1d(np.eye(side), sigma_px, axis=1).astype(np.float32)
    return blurred


def _interpolate(places: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Weights (..., side) of linear interpolation at places on a line of `side` pixels."""
    weights: npt.NDArray[np.float64] = 1 - np.abs(places[..., None] - np.arange(side))
    return weights.clip(0)
