-- What has to follow when the table of schemas was lost and made anew, in the same transaction.

-- name: schemas
CREATE TRIGGER schemas_await_copy BEFORE INSERT ON @store.schemas
    FOR EACH STATEMENT EXECUTE FUNCTION @store.refuse_registration()
