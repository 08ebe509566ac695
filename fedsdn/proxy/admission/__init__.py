"""Who may connect to whom, whose turn is next, and what a changed federation file takes away."""
