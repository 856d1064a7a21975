-- KEYS: 1 head, 2 the list of messages.  Answers nothing or what is known.

local head = find('messages')
return head.state == 'alive' and known_of(head) or {}
