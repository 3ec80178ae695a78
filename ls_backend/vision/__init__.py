"""What is in an image: decoding, frozen backbones, the head on top, and its files.

The only room that knows torch, Pillow and safetensors. It never fetches anything: bytes and folders come from above.
"""
