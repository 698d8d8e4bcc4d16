"""Where in this picture does CLIP see that? CLIP Surgery for the CLIP models of transformers."""
