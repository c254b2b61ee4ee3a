"""Time-intensity curves of a store's clips, and what they tell of perfusion: `ceus tic`."""
