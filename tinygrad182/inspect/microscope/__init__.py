"""The microscope's page: what there is to see in a graph, gathered, put into words, and drawn."""
