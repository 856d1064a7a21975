"""What a checkpoint is on its way: LangGraph's saver on our connection, in our tables, in our transaction."""
