"""What a model finds in images: explanations, and how they are saved."""
