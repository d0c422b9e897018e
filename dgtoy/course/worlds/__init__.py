"""Where data come from: domains in 2-D, glyphs, and the networks that judge them."""
