"""The same search and removal in a Milvus server, or the embedded Milvus."""
