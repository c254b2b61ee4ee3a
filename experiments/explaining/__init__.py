"""What a trained model looked at in a patient's image and clip, drawn."""
