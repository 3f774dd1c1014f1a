"""The embedding run: manifest, images, encoder and store, put together. Workers import no more of it than they need."""
