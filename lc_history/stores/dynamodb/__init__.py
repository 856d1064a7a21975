"""A store on DynamoDB: `items` says what a session's items are, `table` how they are called."""

from lc_history.stores.dynamodb.store import DynamoDBStore

__all__ = ["DynamoDBStore"]
