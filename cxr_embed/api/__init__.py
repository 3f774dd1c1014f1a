"""The use cases: a function a use, any path or object in, a result that prints well out."""
