"""``trace``: the graph behind a loss, its nodes and edges, and how it is printed."""
