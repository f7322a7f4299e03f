//! The contract read at run time: how ctl knows an operation's arguments, and a runbook its evidence.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value,
};

use crate::{DESCRIPTORS, v1::Request};

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

/// The operation's own message inside a request, under the operation's name; `None` when there is none.
pub fn unwrap(request: &Request) -> Option<(String, DynamicMessage)> {
    let mut outer = DynamicMessage::new(POOL.get_message_by_name("vigie.v1.Request")?);
    outer.transcode_from(request).ok()?;
    let (field, value) = outer.take_fields().next()?;
    match value {
        Value::Message(message) => Some((field.name().to_owned(), message)),
        _ => None,
    }
}

/// The request that asks for an operation with this message; `None` when the two do not fit.
pub fn wrap(operation: &str, message: DynamicMessage) -> Option<Request> {
    let descriptor = POOL.get_message_by_name("vigie.v1.Request")?;
    let field = descriptor.get_field_by_name(operation)?;
    let mut outer = DynamicMessage::new(descriptor);
    outer.try_set_field(&field, Value::Message(message)).ok()?;
    outer.transcode_to().ok()
}

/// The stack that a request names: empty when it leaves it open, `None` when the operation is about no stack.
pub fn stack_of(request: &Request) -> Option<String> {
    let (_, message) = unwrap(request)?;
    let field = message.descriptor().get_field_by_name("stack")?;
    message.get_field(&field).as_str().map(str::to_owned)
}

/// The request with its `stack` filled in, where it has such a field and leaves it open; otherwise as it is.
pub fn with_stack(request: &Request, stack: &str) -> Request {
    let filled = || {
        let (operation, mut message) = unwrap(request)?;
        fill_stack(&mut message, stack);
        wrap(&operation, message)
    };
    filled().unwrap_or_else(|| request.clone())
}

/// The same inside an operation's own message.
pub fn fill_stack(message: &mut DynamicMessage, stack: &str) {
    if let Some(field) = message.descriptor().get_field_by_name("stack").filter(|_| !stack.is_empty())
        && !message.has_field(&field)
    {
        message.set_field(&field, Value::String(stack.to_owned()));
    }
}

/// The operation that tells what this one would do, with the same fields as far as it has them; `None` when there is
/// none.
pub fn preview_of(request: &Request) -> Option<Request> {
    let preview = crate::operation::Operation::of(request).ok()?.preview?;
    let (_, message) = unwrap(request)?;
    let mut asked = DynamicMessage::new(self::request(preview)?);
    for (field, value) in message.fields() {
        if let Some(same) = asked.descriptor().get_field_by_name(field.name()) {
            asked.try_set_field(&same, value.clone()).ok()?;
        }
    }
    wrap(preview, asked)
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
    fn a_stack_is_filled_in_where_it_is_left_open() {
        use crate::v1::{ComposePsRequest, HostFactsRequest, request::Operation};
        let request = |operation| Request { operation: Some(operation) };
        let open = request(Operation::ComposePs(ComposePsRequest::default()));
        let named = request(Operation::ComposePs(ComposePsRequest { stack: "staging".to_owned() }));
        let host = request(Operation::HostFacts(HostFactsRequest {}));
        assert_eq!(stack_of(&with_stack(&open, "sylion")).as_deref(), Some("sylion"));
        assert_eq!((with_stack(&named, "sylion"), with_stack(&open, "")), (named, open));
        assert_eq!((with_stack(&host, "sylion"), stack_of(&host)), (host.clone(), None));
    }

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

    /// Every message, enumeration, service and rpc carries prose. The source's comments stand in the descriptors under
    /// the path of what they explain: `[4, n]` a message, `[5, n]` an enumeration, `[6, n]` a service, `[6, n, 2, m]`
    /// an rpc.
    #[test]
    fn the_contract_explains_itself() {
        for file in pool().files().filter(|file| file.package_name() == "vigie.v1") {
            let file = file.file_descriptor_proto();
            let explained = |path: &[i32]| {
                let mut places = file.source_code_info.iter().flat_map(|info| &info.location);
                places.any(|place| place.path == path && !place.leading_comments().trim().is_empty())
            };
            let places = [(4, file.message_type.len()), (5, file.enum_type.len()), (6, file.service.len())];
            for (kind, count) in places {
                for number in 0..i32::try_from(count).unwrap() {
                    assert!(explained(&[kind, number]), "{}: [{kind}, {number}] has no prose", file.name());
                }
            }
            for (number, service) in file.service.iter().enumerate() {
                for (method, rpc) in service.method.iter().enumerate() {
                    let path = [6, i32::try_from(number).unwrap(), 2, i32::try_from(method).unwrap()];
                    assert!(explained(&path), "{} has no prose", rpc.name());
                }
            }
        }
    }
}
