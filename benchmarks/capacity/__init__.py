"""What a cluster of a given size can do: a simulation that is fed with measured costs."""
