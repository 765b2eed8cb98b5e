//! placeholder
/// placeholder
#[derive(Debug)]
pub struct JsonCodeClassifier;
