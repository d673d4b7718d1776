"""Image encoders: pixels to patch features, their weights, the feature cache, finding tags."""

from r2genkit.encoders.networks import Encoder, build_encoder

__all__ = ["Encoder", "build_encoder"]
