"""ImmuneCam: removes adversarial perturbations from camera faces, in front of any recogniser."""
