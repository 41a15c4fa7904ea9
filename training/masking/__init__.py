"""Recognisers of masked faces: frequencies chosen, faces mixed by a strategy, and the training of all of it."""

from immunecam.training.masking.config import MaskingConfig
from immunecam.training.masking.mask_file import MaskFile
from immunecam.training.masking.people import People
from immunecam.training.masking.teacher import TeacherEmbeddings
from immunecam.training.masking.trained import load_trained
from immunecam.training.masking.trainer import MaskingTrainer

__all__ = ["MaskFile", "MaskingConfig", "MaskingTrainer", "People", "TeacherEmbeddings", "load_trained"]
