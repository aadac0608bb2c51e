"""What both sides share: messages, problems, tensors and the plan. No TensorFlow, no network, no clock."""
