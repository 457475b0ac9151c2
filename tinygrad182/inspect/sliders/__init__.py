"""The playground: a network whose weights, biases and length are set by sliders, and its gradients."""
