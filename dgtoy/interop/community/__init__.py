"""A community pipeline for diffusers, in the folder FOLDER: `custom_pipeline=FOLDER`."""

import pathlib

FOLDER = str(pathlib.Path(__file__).parent)
