//! The contract read at run time: how ctl knows an operation's arguments, and a runbook its evidence.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor};

use crate::DESCRIPTORS;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The bytes are made by build.rs, which decodes them too.
    DescriptorPool::decode(DESCRIPTORS).unwrap_or_else(|error| unreachable!("the embedded contract: {error}"))
});

/// The whole contract.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The request message of an operation; `None` for an unknown one.
pub fn request(operation: &str) -> Option<MessageDescriptor> {
    member("vigie.v1.Request", operation)
}

/// The result message of an operation; `None` for an unknown one.
pub fn result(operation: &str) -> Option<MessageDescriptor> {
    member("vigie.v1.Result", operation)
}

fn member(union: &str, operation: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(union)?.get_field_by_name(operation)?.kind().as_message().cloned()
}

/// The `(rules)` of a request's field.
pub fn rules(field: &FieldDescriptor) -> crate::v1::FieldRules {
    let Some(extension) = POOL.get_extension_by_name("vigie.v1.rules") else { return Default::default() };
    let options = field.options();
    let value = options.get_extension(&extension);
    value.as_message().and_then(|message: &DynamicMessage| message.transcode_to().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_described() {
        for operation in crate::operation::OPERATIONS {
            let request = request(operation.name).unwrap();
            assert!(result(operation.name).is_some());
            for field in request.fields() {
                assert!(!rules(&field).help.is_empty(), "{} has no help", field.full_name());
            }
        }
    }

}
