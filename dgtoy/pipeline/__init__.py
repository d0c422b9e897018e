"""From a folder of pictures to guided samples and their scores; `cli` has the steps, a command each."""

from ..environment import needs

needs("dit", "PIL", "tqdm")
