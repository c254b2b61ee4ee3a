"""Which part of a frame is ultrasound."""
