"""A synthetic cohort with a known answer."""

from datamodules.phantom.make import make_phantom
from datamodules.phantom.preset import PhantomPreset

__all__ = ["PhantomPreset", "make_phantom"]
