"""The population knobs: who is radiographed, and on which machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from r2genkit.errors import KitError


@dataclass(frozen=True, slots=True)
class Population:
    """Spread of bodies, exposure and film of one (imaginary) hospital.

    Two populations differ in nothing but these numbers, so a model trained on one can be tested
    on "another hospital". All spreads are standard deviations unless they say otherwise.

    Attributes:
        name: label used in captions.
        body_size: SD of the overall body scale (fraction of the mean).
        body_width: SD of the chest width and depth (fractions, drawn separately).
        fat_mm: mean thickness of the subcutaneous fat layer in mm (log-normal spread .5).
        female: share of patients with breast shadows.
        trait_spread: factor on the normal spread of the anatomical traits (1 = the default that
            finding shifts are measured in).
        lean: SD of the sideways and forward lean (mm per mm of height).
        yaw: SD of the rotation about the long axis (rad).
        zoom: SD of the log of the magnification; the field is about 350 mm at zoom 0.
        shift_mm: SD of the position of the field, in mm, both directions.
        tilt: SD of the roll of the detector (mm per mm, a shear).
        film_gamma: SD of the log of the tone exponent.
        film_match: least and greatest share of histogram matching in the tone curve (0 = a plain
            window between two quantiles, 1 = grey values distributed as the film's own target).
        local_contrast: least and greatest gain of the unsharp masking.
        scatter: mean ratio of scattered to primary radiation.
        noise: least and greatest SD of the film noise (fraction of full scale).
        blur_px: least and greatest SD of the system blur in pixels at 224 x 224.
        marker: probability of a side marker on a film.
        collimation: probability that a collimated (black) border is visible on a film.
    """

    name: str = "default"
    body_size: float = 0.035
    body_width: float = 0.045
    fat_mm: float = 12.0
    female: float = 0.52
    trait_spread: float = 1.0
    lean: float = 0.018
    yaw: float = 0.035
    zoom: float = 0.07
    shift_mm: float = 9.0
    tilt: float = 0.012
    film_gamma: float = 0.24
    film_match: tuple[float, float] = (0.70, 1.0)
    local_contrast: tuple[float, float] = (0.7, 1.3)
    scatter: float = 0.7
    noise: tuple[float, float] = (0.004, 0.010)
    blur_px: tuple[float, float] = (0.25, 0.55)
    marker: float = 0.85
    collimation: float = 0.40

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if field == "name":
                continue
            numbers = value if isinstance(value, tuple) else (value,)
            if any(number < 0 for number in numbers) or list(numbers) != sorted(numbers):
                raise KitError(
                    f"Population.{field} is {value!r}; give non-negative numbers, ranges in order."
                )
        for field in ("female", "marker", "collimation"):
            if getattr(self, field) > 1:
                raise KitError(f"Population.{field} is {getattr(self, field)}; give a share <= 1.")
        if self.film_match[1] > 1:
            raise KitError(f"Population.film_match is {self.film_match}; give shares <= 1.")
