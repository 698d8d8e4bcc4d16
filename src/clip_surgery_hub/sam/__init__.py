"""From text to points to masks by SAM."""
