"""The truths numbered N1 to N15, of layers, losses and their state, are all tested, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

TESTED = {
    "N1 a wrong number of features": """
        test_linear_with_the_wrong_number_of_features_names_the_layer_and_both_numbers""",
    "N2 parameters in lists and dictionaries, tied ones once": """
        test_parameters_are_found_in_attributes_lists_tuples_and_dictionaries_in_pytorchs_order
        test_tied_parameters_count_once_under_their_first_name""",
    "N3 modes and dropout": """
        test_train_and_eval_reach_every_module_and_return_the_module test_dropout_outside_zero_to_one_is_refused
        test_dropout_is_the_identity_for_p_0_and_in_evaluation_and_zero_for_p_1 test_dropout_keeps_the_mean
        test_dropout_masks_come_from_the_seed""",
    "N4 batch norm": """
        test_training_with_less_than_two_values_a_channel_is_refused
        test_running_averages_over_ten_steps_match_the_formula
        test_evaluation_uses_the_running_averages_and_takes_a_batch_of_one test_derivatives_agree_with_differences""",
    "N5 constant input": "test_constant_input_gives_finite_results_and_gradients",
    "N6 initialisation": """
        test_mean_deviation_and_bound_are_those_of_the_formula_within_5_sigma test_fewer_than_two_axes_have_no_fan
        test_the_same_seed_gives_the_same_bits_on_every_device""",
    "N7 cross-entropy": """
        test_cross_entropy_names_what_is_wrong_with_the_targets test_losses_of_nothing
        test_on_a_gpu_a_target_out_of_range_makes_the_loss_nan_without_waiting
        test_ignoring_every_target_gives_zero_and_zero_gradients
        test_cross_entropy_is_minus_log_softmax_at_the_target""",
    "N8 no loss broadcasts": "test_squared_error_never_broadcasts test_no_loss_broadcasts_or_mixes_dtypes",
    "N9 binary cross-entropy": """
        test_probabilities_outside_of_zero_to_one_are_refused test_binary_cross_entropy_of_logits_is_exact_far_out""",
    "N10 loading": """
        test_all_that_does_not_fit_is_listed_at_once_and_nothing_changes
        test_without_strict_missing_and_unexpected_names_are_returned_and_the_rest_is_loaded""",
    "N11 the state": """
        test_the_keys_are_dotted_and_in_pytorchs_order test_the_state_is_a_copy_without_gradient
        test_a_round_trip_is_bitwise_and_keeps_the_parameter_objects_and_their_memory""",
    "N12 copies and text": """
        test_a_copy_is_independent_and_equal test_the_text_shows_the_nesting_the_shapes_and_the_counts
        test_a_module_needs_no_call_of_super_init""",
    "N13 no CuPy": "test_moving_to_a_gpu_without_cupy_names_the_package",
    "N14 two devices": "test_linear_on_two_devices_names_both",
    "N15 rows without a choice": """
        test_softmax_of_a_row_of_minus_infinity_is_zero_and_finite_backward
        test_a_query_that_may_look_nowhere_gets_weights_0_and_finite_gradients""",
}


def test_the_list_is_whole():
    assert [truth.split()[0] for truth in TESTED] == [f"N{i}" for i in range(1, 16)]


@pytest.mark.parametrize("truth", TESTED)
def test_every_truth_of_the_checklist_is_tested(truth):
    text = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_nn_*.py"))
    assert [name for name in TESTED[truth].split() if f"def {name}(" not in text] == []
