"""The course: what only the notebooks need."""

from ..environment import needs

needs("course", "matplotlib", "scipy", "sklearn", "tqdm", "PIL")
