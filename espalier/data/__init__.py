"""Text becomes token shards, token shards become batches; nothing here knows a model."""
