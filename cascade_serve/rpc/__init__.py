"""The wire: the only package that imports grpc. Bytes become core's nouns here, and core's nouns bytes."""
