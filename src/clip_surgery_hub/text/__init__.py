"""Texts: embedded, cached, cut into words."""
