"""The course: what only the notebooks need."""
