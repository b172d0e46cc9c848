"""One decision each, on the leader: read caches, ask the policy, write what differs."""
