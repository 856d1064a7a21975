"""What Firestore and DynamoDB have in common: a head for each session, read before every change."""
