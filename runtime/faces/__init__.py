"""From a frame to aligned faces and back: finding, landmarks, alignment, paste."""
