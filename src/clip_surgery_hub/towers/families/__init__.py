"""The families of vision towers: every file in this folder is one, and needs no other place to be named."""
