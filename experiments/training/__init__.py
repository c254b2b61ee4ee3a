"""One run: built, trained, watched, resumed, scored."""
