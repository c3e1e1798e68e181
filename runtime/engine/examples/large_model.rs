//! Makes a model of more than 2 GB, whose weights lie in a file beside it, and runs it: `large_model FOLDER`.
//!
//! A product of a row with 8,192 rows of 71,680 numbers: 2.35 GB. The file is sparse, so it takes next to no disk; the numbers
//! that are not zero lie at both ends and around byte 2^31. Prints what loading took and fails where a result is wrong. Needs
//! 8 GB of memory: the numbers as the file has them, and packed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use pilotlight_engine::onnx::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use pilotlight_engine::{Data, LoadOptions, Tensor, load};
use prost::Message as _;

const ROWS: usize = 8192;
const COLUMNS: usize = 71_680;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("usage: large_model FOLDER")?;
    let folder = Path::new(&folder);
    // Row, column and value of what is not zero.
    let middle = (1usize << 31) / 4;
    let ones = [
        (0, 0, 1.0f32),
        (middle / COLUMNS, middle % COLUMNS - 1, 2.0),
        (middle / COLUMNS, middle % COLUMNS, 3.0),
        (ROWS - 1, COLUMNS - 1, 4.0),
    ];
    let weights = File::create(folder.join("weights.bin"))?;
    weights.set_len((4 * ROWS * COLUMNS) as u64)?;
    for (row, column, value) in ones {
        weights.write_all_at(&value.to_le_bytes(), 4 * (row * COLUMNS + column) as u64)?;
    }
    let model = folder.join("model.onnx");
    std::fs::write(&model, graph().encode_to_vec())?;

    let start = Instant::now();
    let loaded = load(&model, &LoadOptions::default())?;
    println!("loaded in {:.1} s", start.elapsed().as_secs_f64());
    let row: Vec<f32> = (0..ROWS).map(|k| k as f32 + 1.0).collect();
    let x = Tensor::new(vec![1, ROWS], Data::F32(row.clone())).ok_or("the input does not fit")?;
    let start = Instant::now();
    let outputs = loaded.run(vec![x])?;
    println!("run in {:.2} s", start.elapsed().as_secs_f64());
    let Some(Data::F32(found)) = outputs.first().map(Tensor::data) else {
        return Err("no FP32 output".into());
    };
    let mut wanted = vec![0.0f32; COLUMNS];
    for (r, column, value) in ones {
        wanted[column] += row[r] * value;
    }
    if *found != wanted {
        return Err("a result is wrong".into());
    }
    println!("all {COLUMNS} results are right");
    Ok(())
}

fn graph() -> ModelProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    };
    let weights = TensorProto {
        name: Some("w".into()),
        dims: vec![ROWS as i64, COLUMNS as i64],
        data_type: Some(1),
        data_location: Some(1),
        external_data: vec![
            entry("location", "weights.bin".into()),
            entry("length", (4 * ROWS * COLUMNS).to_string()),
        ],
        ..TensorProto::default()
    };
    let node = NodeProto {
        op_type: Some("MatMul".into()),
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        ..NodeProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("large".into()),
            node: vec![node],
            initializer: vec![weights],
            input: vec![value("x", ROWS)],
            output: vec![value("y", COLUMNS)],
        }),
        ..ModelProto::default()
    }
}

fn value(name: &str, columns: usize) -> ValueInfoProto {
    let dim = [1, columns as i64].map(|d| DimensionProto {
        dim_value: Some(d),
        dim_param: None,
    });
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: Some(1),
                shape: Some(TensorShapeProto { dim: dim.to_vec() }),
            }),
            ..TypeProto::default()
        }),
    }
}
