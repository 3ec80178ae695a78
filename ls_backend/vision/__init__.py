"""What is in an image: decoding, frozen backbones, the head on top, and its files.

The only room that knows torch, Pillow and safetensors. Bytes and folders come from above; all it ever fetches are the
weights of a backbone that somebody has named.
"""
