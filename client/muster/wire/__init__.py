"""Protocol that clients and coordinator share: messages, problems, tensors and plans.

Imports no TensorFlow and no HTTP library, and reads no clock.
"""
