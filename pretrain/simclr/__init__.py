"""What learns: the contrastive loss, one update of the weights, over one process or many."""
