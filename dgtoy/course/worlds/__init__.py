"""Where data come from: domains in 2-D, glyphs, photographs; and how their judges' networks learn."""
