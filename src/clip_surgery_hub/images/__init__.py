"""Images: loaded, transformed to pixels, encoded, and masks of them."""
